"""`pointsman replay`: what another configuration would have decided."""

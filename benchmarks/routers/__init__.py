"""Measures the policy `predicted` on public benchmarks of routers, compared with simple and with published routers."""

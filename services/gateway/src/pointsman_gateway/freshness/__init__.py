"""How much of what an adapter was taught has changed since."""

"""Who asks, and what it costs them: clients and their networks, the price of a pass, API keys."""

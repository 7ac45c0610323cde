"""The language that a visitor gets. The verifier chooses it for pages and messages, the front end for the launch page."""

CHOICES = [
    ("de", "de"),
    ("de-CH,de;q=0.9,en;q=0.8", "de"),
    ("fr-CA, en;q=0.5", "fr"),
    ("nl,ja;q=0.5", "ja"),
    ("pt_BR,es_419", "es"),
    ("AR-EG", "ar"),
    ("xx", "en"),
    ("*", "en"),
    ("", "en"),
    ("xx,de;q=0", "en"),
    ("ene,den,deu", "en"),
]
"""`Accept-Language` → language. Unit tests check the verifier, browser tests the front end."""

"""Which repositories stand out in logs, and the bans that follow. For operators; the image contains none of it (D-280)."""

"""Which repositories stand out in logs, and the bans that follow. For operators; nothing of it is in the image (D-280)."""

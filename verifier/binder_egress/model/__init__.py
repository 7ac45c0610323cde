"""What the words of the gate mean, and how each is written: grants, passes, servers, repositories. Nothing here decides."""

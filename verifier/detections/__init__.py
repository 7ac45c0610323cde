"""Reports of detectors: what they say, who may send them, and how many of them count (docs/detections.md)."""

"""Reports of detectors: what they say, who may send them, and how many count (docs/detections.md)."""

"""The part on the node that ends open connections whose tier is gone (docs/operating.md#open-connections)."""

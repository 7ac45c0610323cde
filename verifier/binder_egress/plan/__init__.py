"""`egress plan`: reads a cluster and BinderHub's values, on an operator's machine, and writes the values of an installation."""

"""`python -m binder_egress_client`."""

from .command import main

main()

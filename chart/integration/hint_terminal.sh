# binder-egress: says where this server gets internet access. Silent in scripts and without a terminal.
case "$-" in
  *i*)
    if [ -n "${BINDER_EGRESS_URL:-}" ] && [ -t 1 ]; then
      printf 'This server may have no internet access, or only packages. To see, and to get it, open:\n'
      printf '  %s#unlock\n' "$BINDER_EGRESS_URL"
    fi
    ;;
esac

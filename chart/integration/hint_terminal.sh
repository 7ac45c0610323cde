# binder-egress: says where this server gets internet access. Silent in scripts and without a terminal.
case "$-" in
  *i*)
    if [ -n "${BINDER_EGRESS_URL:-}" ] && [ -t 1 ]; then
      printf 'This server may have no internet access, or only packages. To see, and to get it, open:\n'
      printf '  %s#unlock\n' "$BINDER_EGRESS_URL"
      if [ -n "${BASH_VERSION:-}" ]; then
        _binder_egress() {
          local failed=$? typed
          # 130: interrupted by a key.
          if [ "$failed" != 0 ] && [ "$failed" != 130 ]; then
            typed=" $(HISTTIMEFORMAT='' history 1) "
            # An empty line leaves the status as it is, and the number in the history too.
            if [ "$typed" != "${_binder_egress_typed:-}" ]; then
              _binder_egress_typed=$typed
              case "$typed" in
                *" curl "* | *" wget "* | *" git clone "* | *" git fetch "* | *" git pull "* | *" git push "* | \
                  *" pip install "* | *" pip3 install "* | *" uv "* | *" conda "* | *" mamba "* | *" npm "* | \
                  *" apt "* | *" apt-get "*)
                  printf 'If internet access is missing, open %s#unlock\n' "$BINDER_EGRESS_URL" >&2
                  ;;
              esac
            fi
          fi
          return "$failed"
        }
        PROMPT_COMMAND="_binder_egress${PROMPT_COMMAND:+; $PROMPT_COMMAND}"
      fi
    fi
    ;;
esac

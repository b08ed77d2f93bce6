# Sourced by run-demo and run-tests (bash). Installs Debian packages with apt, and only those that are missing.
#
# Never leaves a service running or enabled because of us. Every node of ipdc-edge starts its own broker, so the
# distribution's mosquitto is only in the way; and dict-gcide, of which we want the text, depends on a dictionary server;
# Avahi is started by the tests, in a network of their own. Where such a service was installed before, it is not
# touched.

SERVICES=(mosquitto dictd avahi-daemon)

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# need_packages PACKAGE...: in a subshell, so that its trap takes the policy away however it ends
need_packages() (
  missing=() new=() ours=
  for package; do installed "$package" || missing+=("$package"); done
  [ ${#missing[@]} -gt 0 ] || exit 0
  command -v apt-get >/dev/null || { echo "no apt-get here; please install: ${missing[*]}" >&2; exit 1; }
  if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
    echo "not root and no sudo here: run this as root, or have root install: ${missing[*]}" >&2; exit 1
  fi
  for service in "${SERVICES[@]}"; do installed "$service" || new+=("$service"); done
  echo "installing with apt: ${missing[*]}" >&2
  log=$(mktemp) policy=/usr/sbin/policy-rc.d
  trap 'rm -f "$log"; [ -z "$ours" ] || as_root rm -f "$policy"' EXIT
  if [ ${#new[@]} -gt 0 ] && [ ! -e "$policy" ]; then        # one that is there already is somebody's decision
    ours=1
    { echo '#!/bin/sh'; for service in "${new[@]}"; do echo "case \"\$1\" in $service|$service.*) exit 101 ;; esac"; done
    } | as_root tee "$policy" >/dev/null || exit 1
    as_root chmod 755 "$policy" || exit 1
  fi
  apt=(env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300)
  # one unreachable source of many fails the update, but perhaps not the install: only that counts
  if ! { as_root "${apt[@]}" update || true; as_root "${apt[@]}" install --no-install-recommends "${missing[@]}"; } >"$log" 2>&1
  then tail -n 30 "$log" >&2; echo "apt could not install: ${missing[*]}" >&2; exit 1; fi
  for service in "${new[@]}"; do ! installed "$service" || silence "$service"; done
)

# silence SERVICE: packages enable theirs for the next boot, and an existing policy may have let it start now
silence() {
  if [ -d /run/systemd/system ]; then as_root systemctl --quiet stop "$1.service" "$1.socket" 2>/dev/null || true; fi
  as_root deb-systemd-helper disable "$1.service" "$1.socket" >/dev/null 2>&1 || true
  as_root env PATH="$PATH:/usr/sbin:/sbin" update-rc.d "$1" disable >/dev/null 2>&1 || true
}

# Installs Debian packages without letting one of them start a daemon, now or at the next boot.
# The words are the packages.
set -eu
policy=/usr/sbin/policy-rc.d
kept=$policy.before-vipshield
mark='vipshield: nothing is started while its set-up installs packages'

installed() { dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | sed -n 's/^ii  *//p' | sort; }
before=$(mktemp)
installed > "$before"

# Whichever way this ends: a daemon that was newly installed stays off, and the policy is as it was.
finish() {
  status=$?
  trap - EXIT
  for package in $(installed | comm -13 "$before" - | grep -Fx -e keepalived -e openvswitch-switch || true); do
    for file in $(dpkg -L "$package" | grep -E '/systemd/system/[^/@]+\.(service|socket|timer)$|^/etc/init\.d/' || true); do
      name=${file##*/}
      case $file in
        /etc/init.d/*) command -v update-rc.d > /dev/null && update-rc.d "$name" disable > /dev/null 2>&1 || true ;;
        *) command -v systemctl > /dev/null && systemctl disable --quiet "$name" 2> /dev/null || true ;;
      esac
      echo "setup: $name stays off (it came with $package)"
    done
  done
  rm -f "$before" "$policy"
  if [ -e "$kept" ]; then mv "$kept" "$policy"; fi
  exit "$status"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# A run that was killed may have left the mark; then the machine's own policy is kept already.
if [ -e "$policy" ] && ! grep -qF "$mark" "$policy"; then mv "$policy" "$kept"; fi
printf '#!/bin/sh\n# %s\nexit 101\n' "$mark" > "$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
apt-get install -y -q --no-install-recommends -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@"

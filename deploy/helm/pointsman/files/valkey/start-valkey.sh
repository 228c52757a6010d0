#!/bin/sh
# Starts this pod's Valkey: as a replica of whoever the Sentinels say is the primary; without a word of theirs, of the one
# that was it when this pod last ran; on the very first start, of the first pod.
set -eu
me="$HOSTNAME.valkey-pods"

asked() {
  for number in 0 1 2; do
    valkey-cli -h "valkey-$number.valkey-pods" -p 26379 -t 1 sentinel get-primary-addr-by-name pointsman 2>/dev/null | head -n 1
  done | grep -m 1 '^valkey-' || true
}

remembered() {
  sed -n 's/^sentinel monitor pointsman \([^ ]*\) .*/\1/p' /data/sentinel.conf 2>/dev/null || true
}

primary="$(asked)"
primary="${primary:-$(remembered)}"
primary="${primary:-valkey-0.valkey-pods}"

exec valkey-server - <<END
include /etc/valkey/valkey.conf
include /etc/valkey/replica.conf
maxmemory $((MEMORY_LIMIT / 10 * 7))
requirepass "$REDISCLI_AUTH"
primaryauth "$REDISCLI_AUTH"
replica-announce-ip $me
$([ "$primary" = "$me" ] || echo "replicaof $primary 6379")
END

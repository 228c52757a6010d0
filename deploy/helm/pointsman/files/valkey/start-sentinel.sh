#!/bin/sh
# Starts this pod's Sentinel. It writes what it learns into its file, which outlives the pod; the password is written
# anew each time.
set -eu
file=/data/sentinel.conf
umask 077

if ! grep -q '^sentinel monitor pointsman ' "$file" 2>/dev/null; then
  until getent hosts valkey-0.valkey-pods >/dev/null; do sleep 1; done
  cat > "$file" <<END
port 26379
dir /tmp
sentinel resolve-hostnames yes
sentinel announce-hostnames yes
sentinel announce-ip $HOSTNAME.valkey-pods
sentinel monitor pointsman valkey-0.valkey-pods 6379 2
sentinel down-after-milliseconds pointsman 3000
sentinel failover-timeout pointsman 10000
sentinel parallel-syncs pointsman 1
END
fi
grep -v '^sentinel auth-pass ' "$file" > "$file.new"
echo "sentinel auth-pass pointsman $REDISCLI_AUTH" >> "$file.new"
mv "$file.new" "$file"
exec valkey-sentinel "$file"

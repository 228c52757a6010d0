#!/bin/sh
# Reads an RDB file (of `valkey-cli --rdb`) from standard input, and makes it what Valkey loads at its next start. With
# `appendonly yes` Valkey ignores a dump.rdb: it reads the base file and the changes that appendonlydir names. From here
# until that start Valkey writes nothing to its disk. The data it had before is kept in before-restore.
set -eu
data="$(valkey-cli config get dir | tail -n 1)"
new="$data/restored"
file="$new/appendonly.aof.1.base.rdb"

rm -rf "$new"
mkdir "$new"
cat > "$file"
# `valkey-cli --rdb -` appends a mark to what it writes; nothing may follow in a base file.
size="$(valkey-check-rdb "$file" | sed -n 's/^\[offset \([0-9]*\)\] Checksum OK.*/\1/p')"
if [ -z "$size" ]; then
  echo "error: standard input is not a complete RDB file; nothing was changed" >&2
  rm -rf "$new"
  exit 1
fi
truncate -s "$size" "$file"
echo "file ${file##*/} seq 1 type b" > "$new/appendonly.aof.manifest"
sync

test "$(valkey-cli config set appendonly no)" = OK
rm -rf "$data/before-restore"
test ! -d "$data/appendonlydir" || mv "$data/appendonlydir" "$data/before-restore"
mv "$new" "$data/appendonlydir"
echo "restart Valkey now: it will load $size bytes"

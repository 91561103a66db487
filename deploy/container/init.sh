#!/bin/sh
# Make, once, what compose.yaml serves: a ledger, three witnesses and a mirror, joined by a policy.
#   init.sh FOLDER ORIGIN
# LEDGER is the command, LEDGER_ADDRESS and WITNESS_ADDRESS_1 to _3 where the parts are reached.
set -eu
umask 077
data=$1
origin=$2
ledger=${LEDGER:-ledger}

$ledger init "$data/ledger" --origin "$origin" >/dev/null
log=$($ledger key show "$data/ledger" 2>/dev/null)

witnesses= names=
for number in 1 2 3; do
    key=$($ledger witness init "$data/witness-$number" --name "$origin/witness-$number" 2>/dev/null |
        grep "^$origin/witness-$number+")
    for vkey in $(echo "$log" | cut -d ' ' -f 2); do
        $ledger witness add-log "$data/witness-$number" --vkey "$vkey" >/dev/null
    done
    eval "address=\${WITNESS_ADDRESS_$number:-http://witness-$number:8766}"
    witnesses="$witnesses
witness witness-$number $key $address"
    names="$names witness-$number"
done
cat >"$data/ledger/policy" <<POLICY
$log$witnesses
group witnesses 2$names
quorum witnesses
POLICY

# The mirror reads all entries; its token is in its own folder.
$ledger token create "$data/ledger" --name mirror --scope export --scope query \
    >"$data/mirror.token" 2>/dev/null
mkdir -p "$data/mirror"
mv "$data/mirror.token" "$data/mirror/log.token"
$ledger mirror init "$data/mirror" --log "${LEDGER_ADDRESS:-http://ledger:8765}" --insecure \
    --policy "$data/ledger/policy" --token-file "$data/mirror/log.token" >/dev/null

echo "made in $data: ledger, witness-1 to witness-3, mirror. The policy, for all who verify:"
cat "$data/ledger/policy"
echo "a first token: ledger token create $data/ledger --name my-app --scope append"

#!/usr/bin/env bash
# Prints the table of README.md: each script with its first line.
cd "$(dirname "$0")" || exit
echo "| script | finding |"
echo "|---|---|"
for script in *.sh; do
    case $script in lib.sh | table.sh) continue ;; esac
    echo "| \`$script\` | $(sed -n '2s/^# //p' "$script") |"
done

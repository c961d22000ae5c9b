# What the scripts share: they source this file and call `check`.

# Runs a Python program with pinned packages in a folder of its own; status 0 if it prints what it
# printed when the finding was made, else 1.
#   check PACKAGE==VERSION... <<'PROGRAM' 3<<'EXPECTED'
check() {
    local folder status=0
    folder=$(mktemp -d)
    trap "rm -rf '$folder'" EXIT
    cat >"$folder/program.py"
    cat >"$folder/expected" <&3
    "${PYTHON:-python3}" -m venv "$folder/venv" &&
        "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" || return 2
    mkdir "$folder/work"
    (cd "$folder/work" && HOME=$PWD ../venv/bin/python -I ../program.py >../found 2>../errors) ||
        status=$?

    echo "$("$folder/venv/bin/python" --version), $*"
    cat "$folder/found"
    if [ "$status" = 0 ] && cmp -s "$folder/found" "$folder/expected"; then
        echo "as found"
        return 0
    fi
    echo "changed (status $status); it used to print:"
    cat "$folder/expected"
    tail -n 20 "$folder/errors" >&2
    return 1
}

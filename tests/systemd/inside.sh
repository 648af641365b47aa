# Sourced by the tests here. Outside it runs the test again in a sandbox, and does not return. Inside it installs msd, and
# has what the tests share: in a service that needs no start, nothing here waits for a time, but for what is to come.

build=${BUILD:-build}
name=${0##*/}

if [ -z "${INSIDE-}" ]; then
    case $build in
    *san)
        echo "SKIP: $name: a sanitizer does not bear what the units restrict"
        exit 0
        ;;
    esac
    status=0
    output=$(INSIDE=1 tests/systemd/sandbox env INSIDE=1 bash "$0" 2>&1) || status=$?
    if [ "$status" = 77 ]; then
        echo "SKIP: $name: $output"
        exit 0
    fi
    printf '%s\n' "$output"
    exit "$status"
fi

. tests/support/checks.sh

explain() {
    journalctl --no-pager -n 30
}

# options TEXT: what msd is started with from now on.
options() {
    printf 'MSD_OPTIONS=%s\n' "$*" >/etc/default/msd
}

# drop_in LINE...: what msd.service has beside its own [Service].
drop_in() {
    mkdir -p /run/systemd/system/msd.service.d
    printf '%s\n' '[Service]' "$@" >/run/systemd/system/msd.service.d/test.conf
    systemctl daemon-reload
}

# property UNIT NAME
property() {
    systemctl show --value -p "$2" "$1"
}

# follow TEXT: waits until the journal has TEXT, with a generous deadline.
follow() {
    # The one that follows ends by a signal when nobody reads it any more.
    grep -m1 -q -- "$1" < <(exec timeout 60 journalctl -f -n all -o cat --no-pager)
}

milliseconds() {
    echo $((${EPOCHREALTIME/[.,]/} / 1000))
}

# The programs of the build are installed as they are: nothing is compiled here.
unset MAKEFLAGS MFLAGS MAKELEVEL
mkdir -p /run/build /etc/default
cp "$build/msd" "$build/mscli" /run/build/
make -s install BUILD=/run/build -o /run/build/msd -o /run/build/mscli DESTDIR= PREFIX=/run/usr \
    UNITDIR=/run/systemd/system SYSUSERSDIR=/run/sysusers.d >/dev/null
# A test starts it more often than anybody else.
mkdir -p /run/systemd/system/msd.service.d
printf '[Unit]\nStartLimitIntervalSec=0\n' >/run/systemd/system/msd.service.d/limit.conf
# A program that is put around msd may need more than msd does.
if [ -e "$build/drop-in.conf" ]; then
    for unit in msd.service msd@.service; do
        install -D -m 644 "$build/drop-in.conf" "/run/systemd/system/$unit.d/drop-in.conf"
    done
fi
systemd-sysusers /run/sysusers.d/msd.conf 2>/dev/null
systemctl daemon-reload
export PATH=/run/usr/bin:/run/usr/sbin:$PATH

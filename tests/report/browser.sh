#!/bin/sh
# Makes sure that a headless browser is there for the report's tests. Debian and Ubuntu: installs Chromium and its driver
# where this user may; anywhere else says what is missing. Always succeeds: without a browser the tests are skipped, loudly.
set -u
have() { command -v "$1" >/dev/null 2>&1; }
if { have chromium || have chromium-browser || have google-chrome; } && have chromedriver; then
    exit 0
fi
if ! have apt-get; then
    echo "browser.sh: no Chromium with chromedriver, and no apt-get to install them: the browser tests will be skipped" >&2
    exit 0
fi
if [ "$(id -u)" = 0 ]; then as_root=""; elif have sudo && sudo -n true 2>/dev/null; then as_root="sudo -n"; else
    echo "browser.sh: the browser tests will be skipped; install: apt-get install chromium chromium-driver" >&2
    exit 0
fi
$as_root apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null ||
    echo "browser.sh: Chromium could not be installed: the browser tests will be skipped" >&2
exit 0

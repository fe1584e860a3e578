# The images of Redis and of its fork Valkey, for the tests and compose.yml: Debian's server,
# iptables for cuts made inside the container, socat for a way in beside its port, libeatmydata, and
# redis-py, the Python client that Portunus is tested against.
# `cargo xtask images` builds them; so do, in this folder,
# `docker build -t localhost/portunus/redis:8.0 -f redis.Dockerfile .` and
# `docker build -t localhost/portunus/valkey:8.1 -f redis.Dockerfile --build-arg SERVER=valkey
# --build-arg SERIES=8.1 .`.
#
# The container's arguments are further options of the server. `moved-clock PROGRAM` runs a program
# whose wall clock is the machine's plus the seconds in /run/portunus-clock.

FROM debian:trixie-slim AS build
LABEL org.portunus.stage=build
ARG SERVER=redis
ARG SERIES=8.0
# host-apt is how the host reaches a Debian archive (mirror, proxy, CA). xtask puts it into the
# build context, and only into this stage; the pattern lets the build do without it.
COPY redis.Dockerfile host-ap[t] /run/host-apt/
COPY clock.c /tmp/clock.c
# The series is asserted, not the patch: Debian's fixes must not break the build.
# Either server has both names, so that a test need not know which one it has.
RUN set -eu; \
    if [ -e /run/host-apt/apt.conf ]; then export APT_CONFIG=/run/host-apt/apt.conf; fi; \
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; \
    chmod +x /usr/sbin/policy-rc.d; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get update; \
    apt-get install --yes --no-install-recommends \
        eatmydata iptables python3-redis "$SERVER-server" socat tcc libc6-dev; \
    "$SERVER-server" --version | grep -Fi "$SERVER server v=$SERIES."; \
    tcc -shared -o /usr/local/lib/clock.so /tmp/clock.c; \
    python3 -c 'from redis.lock import Lock'; \
    apt-get purge --yes --auto-remove tcc libc6-dev; \
    for part in server cli; do \
        [ -e "/usr/bin/redis-$part" ] || ln -s "$SERVER-$part" "/usr/bin/redis-$part"; done; \
    rm -rf /run/host-apt /tmp/clock.c /var/lib/apt/lists/* /var/cache/apt/* /var/log/* \
        "/var/lib/$SERVER" /var/lib/redis /usr/share/doc /usr/share/locale /usr/share/man; \
    find / -xdev -name __pycache__ -prune -exec rm -r {} +; \
    mkdir -p /var/lib/redis
# An answered write is in the file: a lock or a mark that comes back must be what was promised. That it
# is on the disk, too, only a machine that fails would show; to wait for that stops the server.
RUN printf '%s\n' '#!/bin/sh -eu' \
        'exec eatmydata redis-server --dir /var/lib/redis --bind "*" --protected-mode no --save "" \' \
        '    --appendonly yes --appendfsync always --maxmemory-policy noeviction "$@"' \
        >/usr/local/bin/redis; \
    printf '%s\n' '#!/bin/sh -eu' \
        '[ -e /run/portunus-clock ] || echo +0 >/run/portunus-clock' \
        'export LD_PRELOAD=/usr/local/lib/clock.so' \
        'exec "$@"' >/usr/local/bin/moved-clock; \
    chmod +x /usr/local/bin/redis /usr/local/bin/moved-clock

# One layer, without a trace of the host's settings.
FROM scratch
COPY --from=build / /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
EXPOSE 6379 6380
ENTRYPOINT ["/usr/local/bin/redis"]

# The Redis image of the tests and of compose.yml: Debian's Redis, iptables for cuts made inside
# the container, and socat for a way in beside its port. `cargo xtask images` builds it; so does
# `docker build -t localhost/portunus/redis:8.0 -f redis.Dockerfile .` in this folder.
#
# The container's arguments are further options of redis-server.

FROM debian:trixie-slim AS build
LABEL org.portunus.stage=build
# host-apt is how the host reaches a Debian archive (mirror, proxy, CA). xtask puts it into the
# build context, and only into this stage; the pattern lets the build do without it.
COPY redis.Dockerfile host-ap[t] /run/host-apt/
# The series is asserted, not the patch: Debian's fixes must not break the build.
RUN set -eu; \
    if [ -e /run/host-apt/apt.conf ]; then export APT_CONFIG=/run/host-apt/apt.conf; fi; \
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; \
    chmod +x /usr/sbin/policy-rc.d; \
    apt-get update; \
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        iptables redis-server socat; \
    redis-server --version | grep -F 'Redis server v=8.0.'; \
    rm -rf /run/host-apt /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /var/lib/redis; \
    mkdir -p /var/lib/redis
# An answered write is in the file: a lock or a mark that comes back must be what was promised.
RUN printf '%s\n' '#!/bin/sh -eu' \
        'exec redis-server --dir /var/lib/redis --bind "*" --protected-mode no --save "" \' \
        '    --appendonly yes --appendfsync always --maxmemory-policy noeviction "$@"' \
        >/usr/local/bin/redis; \
    chmod +x /usr/local/bin/redis

# One layer, without a trace of the host's settings.
FROM scratch
COPY --from=build / /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
EXPOSE 6379 6380
ENTRYPOINT ["/usr/local/bin/redis"]

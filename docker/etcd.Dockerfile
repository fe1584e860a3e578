# The etcd image of the tests and of compose.yml: Debian's etcd and etcdctl, and iptables for
# partitions made inside the container. `cargo xtask images` builds it; so does
# `docker build -t localhost/portunus/etcd:3.5.16 -f etcd.Dockerfile .` in this folder.

FROM debian:trixie-slim AS build
LABEL org.portunus.stage=build
# host-apt is how the host reaches a Debian archive (mirror, proxy, CA). xtask puts it into the
# build context, and only into this stage; the pattern lets the build do without it.
COPY etcd.Dockerfile host-ap[t] /run/host-apt/
RUN set -eu; \
    if [ -e /run/host-apt/apt.conf ]; then export APT_CONFIG=/run/host-apt/apt.conf; fi; \
    apt-get update; \
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        etcd-client etcd-server iptables; \
    etcd --version | grep -Fx 'etcd Version: 3.5.16'; \
    rm -rf /run/host-apt /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /var/lib/etcd; \
    mkdir -p /var/lib/etcd

# One layer, without a trace of the host's settings.
FROM scratch
COPY --from=build / /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
EXPOSE 2379 2380 2381
ENTRYPOINT ["/usr/bin/etcd"]

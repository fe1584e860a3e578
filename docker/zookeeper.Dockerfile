# The ZooKeeper image of the tests and of compose.yml: Debian's ZooKeeper, iptables for partitions
# made inside the container, socat for a way in beside its ports, and kazoo, the Python client
# that Portunus is tested against. `cargo xtask images` builds it; so does
# `docker build -t localhost/portunus/zookeeper:3.9.3 -f zookeeper.Dockerfile .` in this folder.
#
# The container's arguments are lines of zoo.cfg; $ZOO_MY_ID is the node's number in them.

FROM debian:trixie-slim AS build
LABEL org.portunus.stage=build
# How the host reaches a Debian archive and a Python index (mirror, proxy, CA). xtask puts both
# into the build context, and only into this stage; the patterns let the build do without them.
COPY zookeeper.Dockerfile host-ap[t] /run/host-apt/
COPY zookeeper.Dockerfile host-pi[p] /run/host-pip/
# The library alone: the package `zookeeper` wants a JRE with a desktop. Its jar names all that it
# needs but slf4j's logger and three parts of netty, without which there is no TLS.
# A node has no name while it is down, and may come back with another address: Java, which would
# remember both, is told not to.
RUN set -eu; \
    if [ -e /run/host-apt/apt.conf ]; then export APT_CONFIG=/run/host-apt/apt.conf; fi; \
    if [ -e /run/host-pip/pip.conf ]; then export PIP_CONFIG_FILE=/run/host-pip/pip.conf; fi; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get update; \
    apt-get install --yes --no-install-recommends \
        iptables libzookeeper-java openjdk-21-jre-headless python3 python3-pip socat; \
    mkdir -p /etc/zookeeper /opt/zookeeper /var/lib/zookeeper; \
    for jar in zookeeper netty-codec netty-resolver netty-transport-native-unix-common slf4j-simple; \
        do ln -s "/usr/share/java/$jar.jar" /opt/zookeeper; done; \
    java -cp '/opt/zookeeper/*' org.apache.zookeeper.version.VersionInfoMain \
        | grep -F 'Apache ZooKeeper, version 3.9.3 '; \
    printf '%s\n' networkaddress.cache.ttl=1 networkaddress.cache.negative.ttl=0 \
        >>/etc/java-21-openjdk/security/java.security; \
    pip install --quiet --no-cache-dir --no-compile --no-deps --target /opt/python kazoo==2.11.0; \
    apt-get purge --yes --auto-remove python3-pip; \
    rm -rf /run/host-apt /run/host-pip /root/.cache /var/lib/apt/lists/* /var/cache/* /var/log/* \
        /usr/share/doc /usr/share/locale /usr/share/man /usr/share/maven-repo
RUN printf '%s\n' '#!/bin/sh -eu' \
        'echo "$ZOO_MY_ID" >/var/lib/zookeeper/myid' \
        'printf "%s\n" dataDir=/var/lib/zookeeper "$@" >/etc/zookeeper/zoo.cfg' \
        '# A small JVM that starts fast. What only a machine that fails would lose is not waited for.' \
        'exec java -Xmx192m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \' \
        '    -Dzookeeper.forceSync=no -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "/opt/zookeeper/*" \' \
        '    org.apache.zookeeper.server.quorum.QuorumPeerMain /etc/zookeeper/zoo.cfg' \
        >/usr/local/bin/zookeeper; \
    chmod +x /usr/local/bin/zookeeper

# One layer, without a trace of the host's settings.
FROM scratch
COPY --from=build / /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENV PYTHONPATH=/opt/python ZOO_MY_ID=1
EXPOSE 2181 2281 2888 3888
ENTRYPOINT ["/usr/local/bin/zookeeper"]

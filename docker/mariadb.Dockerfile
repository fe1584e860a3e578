# The MariaDB image of the tests and of compose.yml: Debian's MariaDB, iptables for cuts made inside
# the container, socat for a way in beside its port, libeatmydata and libfaketime. `cargo xtask
# images` builds it; so does
# `docker build -t localhost/portunus/mariadb:11.8 -f mariadb.Dockerfile .` in this folder.
#
# Database, user and password are `portunus`; the user `health` may log in from inside the
# container, without a password. The container's arguments are further options of mariadbd.
# `moved-clock PROGRAM` runs a program whose wall clock is the machine's plus the seconds in
# /run/portunus-clock.

FROM debian:trixie-slim AS build
LABEL org.portunus.stage=build
# host-apt is how the host reaches a Debian archive (mirror, proxy, CA). xtask puts it into the
# build context, and only into this stage; the pattern lets the build do without it.
COPY mariadb.Dockerfile host-ap[t] /run/host-apt/
# The series is asserted, not the patch: Debian's fixes must not break the build.
RUN set -eu; \
    if [ -e /run/host-apt/apt.conf ]; then export APT_CONFIG=/run/host-apt/apt.conf; fi; \
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; \
    chmod +x /usr/sbin/policy-rc.d; \
    apt-get update; \
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        eatmydata iptables libfaketime mariadb-server socat; \
    mariadbd --version | grep -F 'Ver 11.8.'; \
    ln -s /usr/lib/*/faketime/libfaketime.so.1 /usr/local/lib/clock.so; \
    rm -rf /run/host-apt /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /var/lib/mysql
# What is answered is in the file, and not waited for on the disk, which only a machine that fails would
# show. Small files, as a container copies each of the image that it writes to. Names are not resolved,
# so no host is ever blocked for its failed logins. TLS is off unless the arguments turn it on:
# the server would make itself a certificate at each start.
RUN set -eu; \
    printf '%s\n' '#!/bin/sh -eu' \
        'exec eatmydata mariadbd --no-defaults --user=mysql --datadir=/var/lib/mysql --bind-address="*" \' \
        '    --socket=/run/mysqld/mysqld.sock --pid-file=/run/mysqld/mysqld.pid \' \
        '    --character-set-server=utf8mb4 --max-connections=200 \' \
        '    --max-connect-errors=4294967295 --skip-name-resolve --skip-ssl \' \
        '    --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=1 \' \
        '    --innodb-log-file-size=16M --performance-schema=off "$@"' \
        >/usr/local/bin/mariadb-start; \
    printf '%s\n' '#!/bin/sh -eu' \
        '[ -e /run/portunus-clock ] || echo +0 >/run/portunus-clock' \
        'export LD_PRELOAD=/usr/local/lib/clock.so FAKETIME_TIMESTAMP_FILE=/run/portunus-clock' \
        'export FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DISABLE_SHM=1' \
        'exec "$@"' >/usr/local/bin/moved-clock; \
    chmod +x /usr/local/bin/mariadb-start /usr/local/bin/moved-clock; \
    install --directory --owner mysql --group mysql /run/mysqld /var/lib/mysql; \
    mariadb-install-db --no-defaults --user=mysql --datadir=/var/lib/mysql --skip-test-db \
        --innodb-log-file-size=16M; \
    printf '%s\n' 'FLUSH PRIVILEGES;' 'CREATE DATABASE portunus;' \
        "CREATE USER portunus@'%' IDENTIFIED BY 'portunus';" \
        "GRANT ALL ON portunus.* TO portunus@'%';" \
        "CREATE USER health@'127.0.0.1';" >/tmp/setup.sql; \
    mariadb-start --bootstrap </tmp/setup.sql; \
    rm /tmp/setup.sql; \
    # The command-line client would refuse a server without TLS.
    printf '%s\n' '[client]' ssl-verify-server-cert=0 >/etc/mysql/conf.d/portunus.cnf

# One layer, without a trace of the host's settings.
FROM scratch
COPY --from=build / /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
EXPOSE 3306 3307
ENTRYPOINT ["/usr/local/bin/mariadb-start"]

# The PostgreSQL image of the tests and of compose.yml: Debian's PostgreSQL and PgBouncer, iptables
# for cuts made inside the container, socat for a way in beside its port, and libfaketime.
# `cargo xtask images` builds it; so does
# `docker build -t localhost/portunus/postgres:17 -f postgres.Dockerfile .` in this folder.
#
# Database, user and password are `portunus`; the role `health` may log in from inside the
# container, without a password, and `replica`, with the password `portunus`, may replicate. The
# container's arguments are further options of postgres. Its other entrypoints:
#
#   postgres-standby HOST PORT   a standby of the server there, which has to be of this image
#   postgres-pooler HOST         PgBouncer, in transaction mode, for the server there
#   moved-clock PROGRAM          a program whose wall clock is the machine's plus the seconds in
#                                /run/portunus-clock

FROM debian:trixie-slim AS build
LABEL org.portunus.stage=build
# host-apt is how the host reaches a Debian archive (mirror, proxy, CA). xtask puts it into the
# build context, and only into this stage; the pattern lets the build do without it.
COPY postgres.Dockerfile host-ap[t] /run/host-apt/
ENV PATH=/usr/lib/postgresql/17/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# Without Debian's own cluster: one is made below.
# The series is asserted, not the patch: Debian's fixes must not break the build.
RUN set -eu; \
    if [ -e /run/host-apt/apt.conf ]; then export APT_CONFIG=/run/host-apt/apt.conf; fi; \
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; \
    chmod +x /usr/sbin/policy-rc.d; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get update; \
    apt-get install --yes --no-install-recommends \
        iptables libfaketime pgbouncer postgresql-common socat; \
    echo 'create_main_cluster = false' >>/etc/postgresql-common/createcluster.conf; \
    apt-get install --yes --no-install-recommends postgresql-17; \
    postgres --version | grep -F 'postgres (PostgreSQL) 17.'; \
    ln -s /usr/lib/*/faketime/libfaketime.so.1 /usr/local/lib/clock.so; \
    rm -rf /run/host-apt /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
# Small pieces of log, as a container copies each file of the image that it writes to.
RUN set -eu; \
    printf '%s\n' 'local all all trust' 'host all health 127.0.0.1/32 trust' \
        'host all,replication all all scram-sha-256' >/etc/postgresql/pg_hba.conf; \
    printf '%s\n' '#!/bin/sh -eu' \
        '# Nothing is flushed to disk; what was written outlives the server, not the machine.' \
        'exec setpriv --reuid postgres --regid postgres --clear-groups \' \
        '    postgres -D /var/lib/postgresql/data -c hba_file=/etc/postgresql/pg_hba.conf \' \
        '    -c listen_addresses="*" -c max_connections=200 -c fsync=off \' \
        '    -c wal_keep_size=64 "$@"' \
        >/usr/local/bin/postgres-server; \
    printf '%s\n' '#!/bin/sh -eu' \
        '# Of one image, both servers have the same history up to here: no copy is needed.' \
        'if [ ! -e /var/lib/postgresql/standby ]; then' \
        '    install --owner postgres /dev/null /var/lib/postgresql/data/standby.signal' \
        '    touch /var/lib/postgresql/standby' \
        'fi' \
        'primary="host=$1 port=$2 user=replica password=portunus application_name=standby"' \
        'shift 2' \
        'exec postgres-server -c primary_conninfo="$primary" "$@"' \
        >/usr/local/bin/postgres-standby; \
    printf '%s\n' '#!/bin/sh -eu' \
        '# As old releases: a statement is prepared for no longer than its transaction.' \
        'printf "%s\n" "[databases]" "* = host=$1" "[pgbouncer]" "listen_addr = *" \' \
        '    "auth_type = scram-sha-256" "auth_file = /etc/pgbouncer/users" \' \
        '    "pool_mode = transaction" "max_prepared_statements = 0" "max_client_conn = 500" \' \
        '    "server_login_retry = 1" "unix_socket_dir =" >/run/pgbouncer.ini' \
        'exec pgbouncer --user=postgres --quiet /run/pgbouncer.ini' \
        >/usr/local/bin/postgres-pooler; \
    echo '"portunus" "portunus"' >/etc/pgbouncer/users; \
    printf '%s\n' '#!/bin/sh -eu' \
        '[ -e /run/portunus-clock ] || echo +0 >/run/portunus-clock' \
        'export LD_PRELOAD=/usr/local/lib/clock.so FAKETIME_TIMESTAMP_FILE=/run/portunus-clock' \
        'export FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DISABLE_SHM=1' \
        'exec "$@"' >/usr/local/bin/moved-clock; \
    chmod +x /usr/local/bin/*; \
    as_postgres='setpriv --reuid postgres --regid postgres --clear-groups'; \
    $as_postgres initdb --pgdata /var/lib/postgresql/data --no-sync --wal-segsize 1 \
        --encoding UTF8 --locale C.UTF-8 --auth trust; \
    printf '%s\n' "CREATE ROLE portunus LOGIN PASSWORD 'portunus'" \
        'CREATE DATABASE portunus OWNER portunus' 'CREATE ROLE health LOGIN' \
        "CREATE ROLE replica LOGIN REPLICATION PASSWORD 'portunus'" >/tmp/setup.sql; \
    $as_postgres postgres --single -D /var/lib/postgresql/data -c fsync=off postgres \
        </tmp/setup.sql; \
    rm /tmp/setup.sql

# One layer, without a trace of the host's settings.
FROM scratch
COPY --from=build / /
ENV PATH=/usr/lib/postgresql/17/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
EXPOSE 5432 5433 5434 6432
ENTRYPOINT ["/usr/local/bin/postgres-server"]

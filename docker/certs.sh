#!/bin/sh
# Makes a CA and, signed by it, a server and a client certificate, for trying TLS by hand:
# docker/certs.sh DIRECTORY. The tests make their own. Valid for 30 days; not for production.
set -eu

dir=${1:?usage: certs.sh DIRECTORY}
mkdir -p "$dir"
cd "$dir"
umask 077

sign() { # name, extended key usage, subject alternative names
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
        -keyout "$1.key" -out "$1.csr" -subj "/CN=portunus-$1"
    printf 'basicConstraints=CA:FALSE\nextendedKeyUsage=%s\nsubjectAltName=%s\n' "$2" "$3" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -sha256 \
        -extfile "$1.ext" -out "$1.crt"
    rm "$1.csr" "$1.ext"
}

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -sha256 \
    -keyout ca.key -out ca.crt -subj "/CN=Portunus test CA" \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign
# etcd's own gateway connects with the server certificate, hence clientAuth on it too.
sign server serverAuth,clientAuth \
    DNS:localhost,IP:127.0.0.1,DNS:etcd1,DNS:etcd2,DNS:etcd3,DNS:zookeeper1,DNS:zookeeper2,DNS:zookeeper3
sign client clientAuth DNS:portunus-client
# ZooKeeper reads key and certificate from one file.
cat server.key server.crt >server.pem

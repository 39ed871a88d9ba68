#!/bin/sh
# The suite and the programs of its images, from their Go modules and from Debian: programs.sh DIRECTORY
# Minutes on two cores; e2e.test goes to $PEERS (peers/bin in the temporary directory), the rest to DIRECTORY.
set -eu
version=1.34.4
target=$(realpath "$1")
peers=${PEERS:-${TMPDIR:-/tmp}/peers/bin}
export GOFLAGS='-mod=mod -buildvcs=false' CGO_ENABLED=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$target" "$peers"
cd "$work"

# The module of Kubernetes replaces its parts by folders that the module does not contain; ours by the published ones.
kubernetes=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
{
	printf 'module suite\n\ngo 1.24.0\n\ngodebug default=go1.24\n\nrequire k8s.io/kubernetes v%s\n\nreplace (\n' "$version"
	sed -n "s#^\t\(k8s.io/[a-z-]*\) => ./staging.*#\t\1 => \1 v0.${version#1.}#p" "$kubernetes/go.mod"
	echo ')'
} >go.mod
build() { go build -trimpath -ldflags '-s -w' -o "$target/$1" "$2"; }
build agnhost k8s.io/kubernetes/test/images/agnhost
build nnp k8s.io/kubernetes/test/images/nonewprivs
build sample-apiserver k8s.io/sample-apiserver
cp "$kubernetes"/test/images/agnhost/porter/localhost.* "$target"
[ -e "$peers/e2e.test" ] || go test -c -vet=off -trimpath \
	-ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v$version" \
	-o "$peers/e2e.test" k8s.io/kubernetes/test/e2e

# The nc of agnhost is OpenBSD's; that of busybox does not wait for an answer over UDP.
apt-get download -q netcat-openbsd
dpkg -x netcat-openbsd_*.deb debian
cp debian/bin/nc.openbsd "$target/nc"

# Debian's own busybox drops variables whose names have a dash, which its authors and a test do not.
mkdir -p lists/partial parts
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
	[ -e "$file" ] && sed 's/^Types: deb$/Types: deb-src/; s/^deb /deb-src /' "$file" >"parts/${file##*/}"
done
sources="-o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=$work/parts -o Dir::State::Lists=$work/lists"
# shellcheck disable=SC2086
apt-get -q $sources update && apt-get -q $sources source --download-only busybox
tar xf busybox_*.orig.tar.bz2 && tar xf busybox_*.debian.tar.xz
cd busybox-*/
sed 's/^CONFIG_SELINUX=y//; s/^CONFIG_TC=y//; s/^CONFIG_FEATURE_TC_INGRESS=y//; s/^CONFIG_FEATURE_SH_STANDALONE=y//
	s/^CONFIG_FEATURE_PREFER_APPLETS=y//' ../debian/config/pkg/static >.config
yes '' | make oldconfig >/dev/null
make -j2 busybox
cp busybox "$target/busybox"
cd ..

mkdir etcd && cd etcd
{
	printf 'module etcd\n\ngo 1.24.0\n\nrequire go.etcd.io/etcd/server/v3 v3.6.4\n'
} >go.mod
go build -trimpath -ldflags '-s -w' -o "$target/etcd" go.etcd.io/etcd/server/v3

# Runs libvirtd with folders and users of its own, below $1: nothing of the machine's own libvirt is seen or changed.
set -eu
dir=$1
# What libvirtd finds out about QEMU takes it seconds, so all find it in the same place.
cache=$2
bind() {
    mkdir -p "$1" "$2"
    mount --bind "$1" "$2"
}
mkdir -p "$dir/etc/qemu" "$dir/socket"
bind "$cache" /var/cache/libvirt
bind "$dir/run" /run/libvirt
bind "$dir/lib" /var/lib/libvirt
bind "$dir/log" /var/log/libvirt
bind "$dir/etc" /etc/libvirt
for file in passwd group; do
    cp "/etc/$file" "$dir/$file"
    grep -q '^libvirt-qemu:' "$dir/$file" || echo "libvirt-qemu:x:64055:64055::/nonexistent:/bin/false" >>"$dir/$file"
    mount --bind "$dir/$file" "/etc/$file"
done
# The user of QEMU may not use KVM. libvirtd would look again each time whether that is so if root might.
touch "$dir/kvm"
chmod 0 "$dir/kvm"
[ ! -e /dev/kvm ] || mount --bind "$dir/kvm" /dev/kvm
# No guest is confined, and none has a control group: neither is there in a container.
cat >"$dir/etc/qemu.conf" <<END
stdio_handler = "file"
security_driver = "none"
user = "libvirt-qemu"
group = "libvirt-qemu"
cgroup_controllers = [ ]
namespaces = [ ]
END
cat >"$dir/libvirtd.conf" <<END
unix_sock_dir = "$dir/socket"
unix_sock_group = "root"
auth_unix_rw = "none"
auth_unix_ro = "none"
END
exec libvirtd --config "$dir/libvirtd.conf" --pid-file "$dir/pid" 2>"$dir/log/said"

#!/bin/sh
# Make this machine a node: tell the first one (the argument) our name, and serve what we know.
#
# A stand-in for the cluster software that you test: members are lines of a file, and a node
# joins by asking the first one's web server to add it.
set -eu
first=$1 www=/srv/cluster

mkdir -p $www/cgi-bin
tee $www/cgi-bin/join >/dev/null <<'EOF'
#!/bin/sh
echo "Content-Type: text/plain"
echo
case $QUERY_STRING in *[!a-z0-9-]* | "") echo "no name"; exit ;; esac
grep -qx "$QUERY_STRING" ../members 2>/dev/null || echo "$QUERY_STRING" >>../members
cat ../members
EOF
chmod +x $www/cgi-bin/join
busybox httpd -h $www -p 80

echo "joining $first:"
wget -q -O - "http://$first/cgi-bin/join?$(hostname)"

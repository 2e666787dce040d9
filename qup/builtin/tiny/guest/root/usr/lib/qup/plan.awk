# Turns a NoCloud seed into a list of shell commands for pid1, which has a function of each name.
#
#     awk -v late=FILE -f yaml.awk -f plan.awk meta-data user-data network-config
#
# On standard output: what has to happen before ssh can work. In FILE: what comes after.
# Every word is in single quotes, so nothing in a seed is ever run that isn't meant to be.

FNR == 1 { finish(); document = base(FILENAME); sub(/^\357\273\277/, "") }
{ sub(/\r$/, ""); lines[last = FNR] = $0 }

END {
    finish()
    plan_identity()
    plan_users()
    plan_network()
    plan_later()
    report_unknown()
}

function base(path) { sub(/.*\//, "", path); return path }

# A document has been read to its end: parse it, unless it is a script.
function finish() {
    if (document == "") return
    if (document == "user-data" && lines[1] ~ /^#!/) is_script = 1
    else if (document == "user-data" && lines[1] !~ /^#cloud-config[ \t]*$/) {
        if (last > 1 || lines[1] != "")
            report("user-data:1: neither \"#cloud-config\" nor \"#!\": left out")
    } else yaml_parse(document)
    last = 0
    document = ""
}

function report(message) { print "warn " quote(message) }

# A word for the shell. Split and join, as the rules for & and \ in gsub differ between awks.
function quote(text,    parts, n, i, out) {
    n = split(text, parts, "'")
    out = parts[1]
    for (i = 2; i <= n; i++) out = out "'\\''" parts[i]
    return "'" out "'"
}

function scalar(path) {
    used[path] = 1
    if (kind[path] == "map" || kind[path] == "seq") {
        report("ignored by tiny: " shorten(path) ": one value is wanted here")
        return ""
    }
    return value[path]
}

function has(path) { return path in kind && kind[path] != "null" && kind[path] != "bad" }

# YAML 1.1's booleans; a sudo rule counts as true, and so does anything else that isn't "no".
function truth(path, otherwise,    word) {
    if (!has(path)) { used[path] = 1; return otherwise }
    if (kind[path] == "seq") { used[path] = 1; return count[path] > 0 ? "yes" : "no" }
    word = tolower(scalar(path))
    return word ~ /^(false|no|off|n|0|)$/ ? "no" : "yes"
}

function plan_identity(    host) {
    host = scalar("meta-data/local-hostname")
    if (has("user-data/hostname")) host = scalar("user-data/hostname")
    print "identity " quote(scalar("meta-data/instance-id")) " " quote(host)
    used["user-data/ssh_keys"] = used["user-data/ssh_deletekeys"] = 1
    if (truth("user-data/ssh_pwauth", "no") == "yes")
        report("ignored by tiny: ssh_pwauth: there are no passwords")
    print "hostkey " quote(scalar("user-data/ssh_keys/ed25519_private")) " " \
        truth("user-data/ssh_deletekeys", "yes")
    scalar("user-data/ssh_keys/ed25519_public")
    children("user-data/ssh_keys")
}

# --- users --------------------------------------------------------------------------------

function plan_users(    list, n, i, path, first) {
    list = "user-data/users"
    used[list] = used["user-data/ssh_authorized_keys"] = 1
    n = count[list]
    for (i = 0; i < n; i++) {
        path = list "/" i
        used[path] = 1
        if (kind[path] == "map") first = plan_user(path, first)
        else if (scalar(path) == "default") first = plan_default(first)
        else report("ignored by tiny: user " i ": a mapping with a name is wanted")
    }
    if (first == "") first = plan_default(first)
    plan_keys(first, "user-data/ssh_authorized_keys")
    plan_keys(first, "meta-data/public-keys")
    print "save_accounts"
    for (i = 0; i < users; i++) print "keys " quote(user[i]) " " quote(keys[user[i]])
    print "start_sshd"
}

function plan_default(first) {
    print "user 'qup' '' '/bin/sh' yes"
    user[users++] = "qup"
    return first == "" ? "qup" : first
}

function plan_user(path, first,    who, shell) {
    who = scalar(path "/name")
    if (who !~ /^[a-z_][a-z0-9_.-]*$/) {
        report("ignored by tiny: " shorten(path) ": no usable name: " who)
        skip(path)
        return first
    }
    shell = scalar(path "/shell")
    used[path "/sudo"] = 1
    print "user " quote(who) " " quote(scalar(path "/uid")) " " \
        quote(shell == "" ? "/bin/sh" : shell) " " truth(path "/sudo", "no")
    user[users++] = who
    if (truth(path "/lock_passwd", "yes") == "no")
        report("ignored by tiny: " shorten(path) "/lock_passwd: there are no passwords")
    plan_keys(who, path "/ssh_authorized_keys")
    children(path)
    return first == "" ? who : first
}

function plan_keys(who, list,    i) {
    used[list] = 1
    if (kind[list] == "plain" || kind[list] == "str") add_key(who, scalar(list))
    for (i = 0; i < count[list]; i++) add_key(who, scalar(list "/" i))
}

function add_key(who, line) {
    gsub(/[\r\n]+/, "", line)
    if (line != "") keys[who] = keys[who] line "\n"
}

# --- network (version 2) ------------------------------------------------------------------

function plan_network(    root, list, i) {
    root = "network-config"
    if (has(root "/network")) { used[root "/network"] = 1; root = root "/network" }
    if (!has(root)) { print "network_default"; return }
    used[root] = 1
    if (scalar(root "/version") != "2") {
        report("network-config: only version 2 is understood: using DHCP")
        skip(root)
        print "network_default"
        return
    }
    list = root "/ethernets"
    used[list] = 1
    for (i = 0; i < count[list]; i++) plan_nic(list "/" name[list, i], name[list, i])
    children(root)
}

function plan_nic(path, id,    i, list, route, wanted, match_, to) {
    used[path] = used[path "/match"] = used[path "/nameservers"] = 1
    used[path "/dhcp4-overrides"] = used[path "/optional"] = 1 # routes rank by the order of cards
    match_ = path "/match"
    wanted = has(match_) ? scalar(match_ "/name") : id
    print "nic " quote(tolower(scalar(match_ "/macaddress"))) " " quote(wanted) " " \
        quote(scalar(path "/set-name")) " " truth(path "/dhcp4", "no")
    list = path "/addresses"
    used[list] = 1
    for (i = 0; i < count[list]; i++) print "address " quote(scalar(list "/" i))
    if (has(path "/gateway4")) print "route 'default' " quote(scalar(path "/gateway4"))
    list = path "/routes"
    used[list] = 1
    for (i = 0; i < count[list]; i++) {
        route = list "/" i
        used[route] = 1
        to = scalar(route "/to")
        if (to == "0.0.0.0/0" || to == "::/0") to = "default"
        print "route " quote(to) " " quote(scalar(route "/via"))
        children(route)
    }
    list = path "/nameservers/addresses"
    used[list] = 1
    for (i = 0; i < count[list]; i++) print "nameserver " quote(scalar(list "/" i))
    list = path "/nameservers/search"
    used[list] = 1
    for (i = 0; i < count[list]; i++) print "search " quote(scalar(list "/" i))
    children(match_)
    children(path "/nameservers")
    children(path)
}

# --- after ssh ----------------------------------------------------------------------------

function plan_later(    list, i) {
    used["user-data/updates"] = 1 # the network is set up at each boot anyway
    printf "" >late
    list = "user-data/write_files"
    used[list] = 1
    for (i = 0; i < count[list]; i++) plan_file(list "/" i)
    plan_commands("user-data/bootcmd", "boot")
    plan_commands("user-data/runcmd", "run")
    if (is_script) print "script" >late
    close(late)
}

function plan_file(path,    encoding) {
    used[path] = 1
    encoding = scalar(path "/encoding")
    if (encoding !~ /^(b64|base64|text\/plain|)$/) {
        report("ignored by tiny: " shorten(path) ": encoding " encoding)
        return skip(path)
    }
    if (scalar(path "/path") !~ /^\//) {
        report("ignored by tiny: " shorten(path) ": no absolute path")
        return skip(path)
    }
    if (kind[path "/content"] == "bad") {
        report("ignored by tiny: " shorten(path) ": its content was not understood")
        return skip(path)
    }
    print "file " quote(scalar(path "/path")) " " quote(scalar(path "/permissions")) " " \
        quote(scalar(path "/owner")) " " (encoding ~ /64/ ? "base64" : "text") " " \
        truth(path "/append", "no") " " quote(scalar(path "/content")) >late
    children(path)
}

# A command is a line for the shell, or a list of words that reach the program as they are.
function plan_commands(list, verb,    i, j, path, words) {
    used[list] = 1
    for (i = 0; i < count[list]; i++) {
        path = list "/" i
        used[path] = 1
        words = ""
        if (kind[path] != "seq") words = scalar(path)
        for (j = 0; kind[path] == "seq" && j < count[path]; j++)
            words = words (j ? " " : "") quote(scalar(path "/" j))
        if (words != "") print verb " " (i + 1) " " quote(words) >late
        else if (kind[path] != "map") report("ignored by tiny: " shorten(path) ": no command")
    }
}

# --- nothing is ignored in silence --------------------------------------------------------

# Reports the children of a mapping that nobody has asked for.
function children(path,    i, child) {
    for (i = 0; i < count[path]; i++) {
        child = path "/" name[path, i]
        if (!(child in used)) report("ignored by tiny: " shorten(child))
    }
}

# Keys of user-data are known by their own name.
function shorten(path) {
    sub(/^user-data\//, "", path)
    return path
}

# Marks the children as dealt with.
function skip(path,    i) {
    for (i = 0; i < count[path]; i++) used[path "/" name[path, i]] = 1
}

function report_unknown() {
    children("meta-data")
    children("user-data")
}

# Reads the YAML subset of box "tiny" into a tree; plan.awk, loaded after it, says what it means.
#
# Understood: block mappings and sequences; plain, 'single' and "double" quoted scalars on one
# line, the latter with JSON's escapes; | |- |+ block scalars; [a, b] and {a: b} on one line;
# comments. Everything else (anchors, tags, folded and multi-line scalars, several documents) is
# reported with its line, and that value alone is left out.
#
# The tree: kind[path] is "map", "seq", "str" (quoted or block), "plain" or "null", value[path]
# the text of a scalar, count[path] the number of children, name[path, i] the key of the i-th.
# A path is the document's name and keys or indices, joined by "/": user-data/users/0/name.

# Parses lines[1..last] as the document called `doc`.
function yaml_parse(doc) {
    yaml_doc = doc
    at = 1
    skip_blank()
    if (at <= last && lines[at] ~ /^---[ \t]*(#.*)?$/) { at++; skip_blank() }
    while (at <= last && lines[at] !~ /^ *(-( |$)|\{)/ && !key_length(unindented(lines[at])))
        complain_line()
    if (at > last) { kind[doc] = "null"; return }
    parse_block(doc, 0)
    while (at <= last) {
        if (lines[at] ~ /^\.\.\.[ \t]*$/) return
        complain(at, "this does not belong to what is above it")
        at++
        skip_blank()
    }
}

function complain(line, message) { report(yaml_doc ":" line ": " message) }

# Reports a line of a block that is no entry, and skips it with what belongs to it.
function complain_line(    line) {
    line = unindented(lines[at])
    complain(at, line ~ /^\t/ ? "indented by a tab; YAML wants spaces" \
        : "neither \"key: value\" nor \"- item\": " line)
    skip_deeper(indent_of(lines[at++]))
}

function skip_blank() {
    while (at <= last && lines[at] ~ /^[ \t]*(#.*)?$/) at++
}

function indent_of(line) {
    match(line, /^ */)
    return RLENGTH
}

function unindented(line) {
    sub(/^ +/, "", line)
    return line
}

# Skips what is indented deeper than `indent`: the rest of a value that was not understood.
function skip_deeper(indent) {
    while (at <= last && (lines[at] ~ /^[ \t]*$/ || indent_of(lines[at]) > indent)) at++
    skip_blank()
}

function add_child(path, key) {
    if ((path, "key", key) in seen) complain(at, "the key \"" key "\" is there twice")
    else name[path, count[path]++] = key
    seen[path, "key", key] = 1
    return path "/" key
}

# Parses the block that starts at the current line, if that is indented by `least` or more.
function parse_block(path, least,    indent, line, number) {
    skip_blank()
    if (at > last || (indent = indent_of(lines[at])) < least) { kind[path] = "null"; return }
    line = substr(lines[at], indent + 1)
    if (line ~ /^\t/) complain_line()
    else if (line ~ /^-( |$)/) {
        parse_sequence(path, indent)
    } else if (key_length(line)) {
        parse_mapping(path, indent)
    } else {
        number = at++
        parse_scalar(path, line, indent - 1, number)
    }
}

function parse_sequence(path, indent,    line, item, offset, rest, number) {
    kind[path] = "seq"
    count[path] += 0
    while (at <= last && indent_of(lines[at]) == indent) {
        line = substr(lines[at], indent + 1)
        if (line !~ /^-( |$)/) return
        item = add_child(path, count[path] "")
        match(line, /^- */)
        offset = RLENGTH
        rest = substr(line, offset + 1)
        number = at
        if (rest == "" || rest ~ /^#/) {
            at++
            parse_block(item, indent + 1)
        } else if (rest ~ /^-( |$)/ || key_length(rest)) {
            # "- key: value" is a block of its own that starts in the middle of a line.
            lines[at] = blanks(indent + offset) rest
            parse_block(item, indent + 1)
        } else {
            at++
            parse_scalar(item, rest, indent, number)
        }
        skip_blank()
        check_indent(indent)
    }
}

function parse_mapping(path, indent,    line, length_, key, child, rest, number) {
    kind[path] = "map"
    while (at <= last && indent_of(lines[at]) == indent) {
        line = substr(lines[at], indent + 1)
        if (line ~ /^-( |$)/ || line ~ /^\.\.\.[ \t]*$/) return
        number = at
        length_ = key_length(line)
        if (!length_) { complain_line(); continue }
        key = unquote(substr(line, 1, length_))
        rest = substr(line, length_ + 1)
        sub(/^[ \t]*:[ \t]*/, "", rest)
        child = add_child(path, key)
        at++
        if (rest == "" || rest ~ /^#/) {
            skip_blank()
            # A sequence may stand as far left as the key it belongs to.
            if (at <= last && indent_of(lines[at]) == indent \
                && substr(lines[at], indent + 1) ~ /^-( |$)/) parse_sequence(child, indent)
            else parse_block(child, indent + 1)
        } else parse_scalar(child, rest, indent, number)
        skip_blank()
        check_indent(indent)
    }
}

# After an entry: a line that is deeper than its siblings belongs to nothing.
function check_indent(indent) {
    if (at > last || indent_of(lines[at]) <= indent) return
    complain(at, "indented deeper than what it follows (a scalar over several lines?)")
    at++
    skip_deeper(indent)
}

# The length of the key that a line starts with, without its colon; 0 if it has none.
function key_length(line) {
    if (line ~ /^"/) { if (!match(line, /^"([^"\\]|\\.)*"[ \t]*:([ \t]|$)/)) return 0 }
    else if (line ~ /^'/) { if (!match(line, /^'([^']|'')*'[ \t]*:([ \t]|$)/)) return 0 }
    else if (line ~ /^[\t\[{&*!|>%@`#,?]/ || !match(line, /:([ \t]|$)/)) return 0
    else return index(substr(line, 1, RSTART), " #") ? 0 : RSTART - 1
    match(line, line ~ /^"/ ? "^\"([^\"\\\\]|\\\\.)*\"" : "^'([^']|'')*'")
    return RLENGTH
}

function unquote(text) {
    if (text ~ /^"/) return unescape(substr(text, 2, length(text) - 2))
    if (text ~ /^'/) return single(substr(text, 2, length(text) - 2))
    sub(/[ \t]+$/, "", text)
    return text
}

# A scalar or flow collection that starts with `text` on line `number`, below `indent`.
function parse_scalar(path, text, indent, number,    rest) {
    if (text ~ /^[|]/) return parse_literal(path, text, indent, number)
    if (text ~ /^["'\[{]/) {
        flow = text
        flow_error = ""
        parse_flow(path)
        rest = flow
        if (flow_error == "" && rest !~ /^[ \t]*$/ && rest !~ /^[ \t]+#/)
            flow_error = "something follows the end of the value: " rest
        if (flow_error == "") return
        complain(number, flow_error)
    } else if (text ~ /^>/) complain(number, "folded text (>) is not understood; use |")
    else if (text ~ /^[&*!]/) complain(number, "anchors, aliases and tags are not understood")
    else if (text ~ /^[%@`]/) complain(number, "a value cannot start with " substr(text, 1, 1))
    else {
        sub(/[ \t]+#.*$/, "", text)
        sub(/[ \t]+$/, "", text)
        if (text ~ /: / || text ~ /:$/) complain(number, "\": \" in a value must be quoted")
        else return set_plain(path, text)
    }
    forget(path)
    skip_deeper(indent)
}

# A value that was not understood is no value at all, and neither is a part of it.
function forget(path) { kind[path] = "bad"; count[path] = 0 }

function set_plain(path, text) {
    kind[path] = (text == "~" || text == "null" || text == "") ? "null" : "plain"
    value[path] = kind[path] == "null" ? "" : text
}

function set_string(path, text) {
    kind[path] = "str"
    value[path] = text
}

function parse_literal(path, header, indent, number,    keep, depth, text, blank, line) {
    sub(/[ \t]+#.*$/, "", header)
    sub(/[ \t]+$/, "", header)
    if (header !~ /^\|[-+]?$/) {
        complain(number, "a block scalar starts with |, |- or |+ alone")
        forget(path)
        return skip_deeper(indent)
    }
    keep = substr(header, 2)
    depth = -1
    for (; at <= last; at++) {
        line = lines[at]
        if (line ~ /^ *$/ && (depth < 0 || length(line) <= depth)) { blank = blank "\n"; continue }
        if (depth < 0 && indent_of(line) > indent) depth = indent_of(line)
        if (depth < 0 || indent_of(line) < depth) break
        text = text blank substr(line, depth + 1) "\n"
        blank = ""
    }
    if (keep == "-") sub(/\n$/, "", text)
    else if (keep == "+") text = text blank
    set_string(path, text)
}

# --- one-line values: `flow` is what is left of the line ----------------------------------

function parse_flow(path,    first, text) {
    sub(/^[ \t]+/, "", flow)
    first = substr(flow, 1, 1)
    if (first == "[") parse_flow_sequence(path)
    else if (first == "{") parse_flow_mapping(path)
    else if (first == "\"" || first == "'") set_string(path, take_quoted())
    else if (match(flow, /^[^],}[{]+/)) {
        text = substr(flow, 1, RLENGTH)
        flow = substr(flow, RLENGTH + 1)
        sub(/[ \t]+$/, "", text)
        if (text ~ /: / || text ~ / #/ || text ~ /^[&*!|>%@`]/) flow_error = "quote this: " text
        set_plain(path, text)
    } else flow_error = "a value is missing or does not end on this line"
}

function parse_flow_sequence(path) {
    kind[path] = "seq"
    count[path] += 0
    flow = substr(flow, 2)
    while (flow_error == "" && !take("]")) {
        parse_flow(add_child(path, count[path] ""))
        if (!take(",") && flow !~ /^[ \t]*]/ && flow_error == "")
            flow_error = "the [ ] list does not end on this line"
    }
}

function parse_flow_mapping(path,    key) {
    kind[path] = "map"
    flow = substr(flow, 2)
    while (flow_error == "" && !take("}")) {
        sub(/^[ \t]+/, "", flow)
        if (flow ~ /^["']/) key = take_quoted()
        else if (match(flow, /^[^],}[{:]+/)) {
            key = unquote(substr(flow, 1, RLENGTH))
            flow = substr(flow, RLENGTH + 1)
        } else { flow_error = "the { } mapping does not end on this line"; return }
        if (!take(":")) flow_error = "no value for \"" key "\" in { }"
        else parse_flow(add_child(path, key))
        if (!take(",") && flow !~ /^[ \t]*}/ && flow_error == "")
            flow_error = "the { } mapping does not end on this line"
    }
}

function take(mark) {
    sub(/^[ \t]+/, "", flow)
    if (substr(flow, 1, 1) != mark) return 0
    flow = substr(flow, 2)
    return 1
}

function take_quoted(    pattern, text) {
    pattern = flow ~ /^"/ ? "^\"([^\"\\\\]|\\\\.)*\"" : "^'([^']|'')*'"
    if (!match(flow, pattern)) {
        flow_error = "a quoted value does not end on this line"
        return flow = ""
    }
    text = substr(flow, 1, RLENGTH)
    flow = substr(flow, RLENGTH + 1)
    return unquote(text)
}

function single(text) {
    gsub(/''/, "'", text)
    return text
}

# JSON's escapes, and those of YAML that are as short.
function unescape(text,    out, mark, code) {
    while ((mark = index(text, "\\")) > 0) {
        out = out substr(text, 1, mark - 1)
        code = substr(text, mark + 1, 1)
        text = substr(text, mark + 2)
        if (code == "n") out = out "\n"
        else if (code == "t") out = out "\t"
        else if (code == "r") out = out "\r"
        else if (code == "b") out = out "\b"
        else if (code == "f") out = out "\f"
        else if (code == "e") out = out "\033"
        else if (code == "\"" || code == "\\" || code == "/" || code == " ") out = out code
        else if (code == "x") { out = out utf8(hex(text, 2)); text = substr(text, 3) }
        else if (code == "u") {
            mark = hex(text, 4)
            text = substr(text, 5)
            # Two escapes make one character beyond U+FFFF.
            if (mark >= 55296 && mark < 56320 && substr(text, 1, 2) == "\\u") {
                mark = 65536 + (mark - 55296) * 1024 + hex(substr(text, 3), 4) - 56320
                text = substr(text, 7)
            }
            out = out utf8(mark)
        } else flow_error = "unknown escape \\" code
    }
    return out text
}

function hex(text, digits,    i, digit, number) {
    for (i = 1; i <= digits; i++) {
        digit = index("0123456789abcdef", tolower(substr(text, i, 1)))
        if (!digit || substr(text, i, 1) == "") flow_error = "a \\x or \\u escape is incomplete"
        number = number * 16 + digit - 1
    }
    return number
}

function utf8(code) {
    if (code == 0) { flow_error = "the character NUL cannot be kept"; return "" }
    if (code < 128) return sprintf("%c", code)
    if (code < 2048) return sprintf("%c%c", 192 + int(code / 64), 128 + code % 64)
    if (code < 65536)
        return sprintf("%c%c%c", 224 + int(code / 4096), 128 + int(code / 64) % 64, 128 + code % 64)
    return sprintf("%c%c%c%c", 240 + int(code / 262144), 128 + int(code / 4096) % 64, \
        128 + int(code / 64) % 64, 128 + code % 64)
}

function blanks(n) { return sprintf("%" n "s", "") }

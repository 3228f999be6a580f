#!/bin/sh
# glslc with a cache, which ccache does not give: llama.cpp's Vulkan shaders take longer to compile than its C++.
# A shader is known by its text, the texts it includes, its flags and the compiler's own content. The real compiler's
# preprocessor would tell finer, but takes as long as most shaders. Stands before the real one in PATH; whatever this
# does not understand goes to the real one as it came.
#   GLSLC            the real compiler (/usr/bin/glslc)
#   GLSLC_CACHE_DIR  where results lie (unset: no cache)
#   GLSLC_CACHE_ID   names the compiler: a hash of its content
#   GLSLC_WITHOUT    extensions, apart by blanks, that a shader may not require: told as a compiler without them would
set -u
real=${GLSLC:-/usr/bin/glslc}

# What is not kept is compiled; which extensions a text requires is looked at here alone, so it costs a kept one nothing.
compile() {
    for word; do
        case $word in *.comp) ;; *) continue ;; esac
        for extension in ${GLSLC_WITHOUT:-}; do
            grep -q "^#extension $extension : require" -- "$word" || continue
            echo "$word: error: '#extension' : extension not supported: $extension" >&2
            exit 1
        done
    done
    "$real" "$@" || exit
}

[ -n "${GLSLC_CACHE_DIR:-}" ] && [ -n "${GLSLC_CACHE_ID:-}" ] || { compile "$@"; exit; }

source='' out='' depfile='' flags='' previous=''
for word; do
    case $previous in
        -o) out=$word ;;
        -MF) depfile=$word ;;
        *) case $word in
            -o | -MF | -MD) ;;
            -fshader-stage=* | --target-env=* | -O | -O0 | -Os | -D*) flags="$flags
$word" ;;
            -*) compile "$@"; exit ;;
            *) [ -z "$source" ] || { compile "$@"; exit; }
               source=$word ;;
        esac ;;
    esac
    previous=$word
done
case $source:$out in :* | *: | *:-) compile "$@"; exit ;; esac

# Each text once, in the order of its first inclusion, whatever the preprocessor would leave out; fails where one is missing.
# shellcheck disable=SC2016
read_all='
    function take(name,    line, parts, folder, got) {
        if (name in seen) return
        seen[name] = 1; names = names " \\\n " name; folder = name; sub(/[^\/]*$/, "", folder)
        while ((got = (getline line < name)) > 0) {
            print line
            if (line ~ /^[ \t]*#[ \t]*include/) {
                if (split(line, parts, "\"") < 3) exit 1
                take(folder parts[2])
            }
        }
        if (got < 0) exit 1
        close(name)
    }
    BEGIN { take(source); if (depfile != "") print out ":" names > depfile }'
text=$(awk -v source="$source" -v out="$out" -v depfile="$depfile" "$read_all" && echo complete) || { compile "$@"; exit; }
key=$(printf '%s\n' "$GLSLC_CACHE_ID" "${GLSLC_WITHOUT:-}" "$flags" "$text" | sha256sum)
key=${key%% *}
folder=$GLSLC_CACHE_DIR/${key%"${key#??}"}
kept=$folder/$key
if cp -- "$kept" "$out" 2> /dev/null; then
    touch -c -- "$kept"
    exit 0
fi
compile "$@"
# In full or not at all: another build may look at the same moment.
mkdir -p -- "$folder" && new=$(mktemp "$folder/new.XXXXXX") && cp -- "$out" "$new" && mv -- "$new" "$kept"
exit 0

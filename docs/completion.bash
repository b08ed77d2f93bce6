# bash completion for ipdc-edge(1). Written by docs/make.py from the commands' own options.

# Others choose the names of their nodes, and `compgen -W` runs a $(command) in its words: only plain words get there.
_ipdc_edge_plain() { LC_ALL=C command grep -xE '[A-Za-z0-9][A-Za-z0-9_.-]*'; }

# Ids are the names of directories: no daemon is asked, and the last four letters would do as well.
_ipdc_edge_ids() { command ls -1 "${IPDC_HOME:-/var/lib/ipdc}/jobs" 2>/dev/null | _ipdc_edge_plain; }

_ipdc_edge_nodes() {
    "$1" nodes --json 2>/dev/null | command sed -n 's/^ *"name": "\([^"]*\)".*/\1/p' | _ipdc_edge_plain
}

_ipdc_edge() {
    local cur prev words cword command options="" operand="" kind=""
    _init_completion -n = 2>/dev/null || {
        words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; cur=${words[cword]}; prev=${words[cword - 1]}
    }
    if ((cword == 1)); then
        mapfile -t COMPREPLY < <(compgen -W "submit status jobs nodes result logs story cancel add cat get ls pin unpin gc store run-inline domain drain invite join leave expel serve ask tf doctor demo lab run broker kubo --help --version" -- "$cur")
        return
    fi
    command=${words[1]}
    case $command in
        store | domain | tf | lab)
            if ((cword == 2)); then
                case $command in
                    store) options="stat verify" ;;
                    domain) options="create show backup restore" ;;
                    tf) options="install plan up status run down" ;;
                    lab) options="up down" ;;
                esac
                mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
                return
            fi
            command+=" ${words[2]}"
            ;;
    esac
    case $command in
        "submit") options="-h --help --mapper --reducer --combiner --step --file --args --input-format --output-format --sort-values --partition --skip-bad --sort-budget --output-limit --model --pre --post --input --input-local -k --memory --priority --timeout --no-queue --app --wait --no-wait --id-only --json" operand="FILE" ;;
        "status") options="-h --help --json" operand="ID" ;;
        "jobs") options="-h --help --json" operand="" ;;
        "nodes") options="-h --help -l --long --json" operand="NODE" ;;
        "result") options="-h --help --json --to-kubo" operand="ID" ;;
        "logs") options="-h --help -f --follow --json" operand="ID" ;;
        "story") options="-h --help --json" operand="ID" ;;
        "cancel") options="-h --help --json" operand="ID" ;;
        "add") options="-h --help --copy --dereference-args --to-kubo --json" operand="FILE" ;;
        "cat") options="-h --help" operand="" ;;
        "get") options="-h --help -o --output --force --json" operand="" ;;
        "ls") options="-h --help --json" operand="" ;;
        "pin") options="-h --help --list --ls --json" operand="" ;;
        "unpin") options="-h --help --json" operand="" ;;
        "gc") options="-h --help --json" operand="" ;;
        "store stat") options="-h --help --json" operand="" ;;
        "store verify") options="-h --help --json" operand="" ;;
        "run-inline") options="-h --help --mapper --reducer --combiner --step --file --args --input-format --output-format --sort-values --partition --skip-bad --sort-budget --output-limit --input -k" operand="FILE" ;;
        "domain create") options="-h --help --json" operand="" ;;
        "domain show") options="-h --help --json" operand="" ;;
        "domain backup") options="-h --help --json --check --force --passphrase-file" operand="FILE" ;;
        "domain restore") options="-h --help --json --passphrase-file" operand="FILE" ;;
        "drain") options="-h --help --wait --off --json" operand="" ;;
        "invite") options="-h --help --address --json" operand="" ;;
        "join") options="-h --help --json" operand="" ;;
        "leave") options="-h --help --yes --json" operand="" ;;
        "expel") options="-h --help --json" operand="NODE" ;;
        "serve") options="-h --help --topic -k --pre --post --file --args --images --memory --queue --patience --wait --no-wait --id-only --json" operand="FILE" ;;
        "ask") options="-h --help --input --input-format --health --timeout --json" operand="" ;;
        "tf install") options="-h --help --again --json" operand="" ;;
        "tf plan") options="-h --help --memory --share --nodes --tensorflow --output --force --json" operand="FILE" ;;
        "tf up") options="-h --help --program --args --restart --timeout --json" operand="FILE" ;;
        "tf status") options="-h --help --json" operand="ID" ;;
        "tf run") options="-h --help --cluster --restart" operand="FILE" ;;
        "tf down") options="-h --help --json" operand="ID" ;;
        "doctor") options="-h --help --domain --json" operand="" ;;
        "demo") options="-h --help --dir --text --keep-running" operand="" ;;
        "lab up") options="-h --help --nodes --sandbox --timeout --dir --json" operand="" ;;
        "lab down") options="-h --help --purge --dir --json" operand="" ;;
        "run") options="-h --help --with-broker --check" operand="" ;;
        "broker") options="-h --help --write-only" operand="" ;;
        "kubo") options="-h --help --write-only" operand="" ;;
    esac
    case "$command $prev" in
        "submit --mapper") kind="FILE" ;;
        "submit --reducer") kind="FILE" ;;
        "submit --combiner") kind="FILE" ;;
        "submit --step") kind="FILE" ;;
        "submit --file") kind="FILE" ;;
        "submit --args") kind="" ;;
        "submit --input-format") kind="words lines json csv whole-file auto image npy raw" ;;
        "submit --output-format") kind="words text json raw" ;;
        "submit --partition") kind="FILE" ;;
        "submit --skip-bad") kind="" ;;
        "submit --sort-budget") kind="" ;;
        "submit --output-limit") kind="" ;;
        "submit --model") kind="FILE" ;;
        "submit --pre") kind="FILE" ;;
        "submit --post") kind="FILE" ;;
        "submit --input") kind="FILE" ;;
        "submit --input-local") kind="" ;;
        "submit -k") kind="" ;;
        "submit --memory") kind="" ;;
        "submit --priority") kind="" ;;
        "submit --timeout") kind="" ;;
        "submit --app") kind="" ;;
        "get -o"|"get --output") kind="FILE" ;;
        "run-inline --mapper") kind="FILE" ;;
        "run-inline --reducer") kind="FILE" ;;
        "run-inline --combiner") kind="FILE" ;;
        "run-inline --step") kind="FILE" ;;
        "run-inline --file") kind="FILE" ;;
        "run-inline --args") kind="" ;;
        "run-inline --input-format") kind="words lines json csv whole-file" ;;
        "run-inline --output-format") kind="words text json raw" ;;
        "run-inline --partition") kind="FILE" ;;
        "run-inline --skip-bad") kind="" ;;
        "run-inline --sort-budget") kind="" ;;
        "run-inline --output-limit") kind="" ;;
        "run-inline --input") kind="FILE" ;;
        "run-inline -k") kind="" ;;
        "domain backup --passphrase-file") kind="FILE" ;;
        "domain restore --passphrase-file") kind="FILE" ;;
        "invite --address") kind="" ;;
        "serve --topic") kind="" ;;
        "serve -k") kind="" ;;
        "serve --pre") kind="FILE" ;;
        "serve --post") kind="FILE" ;;
        "serve --file") kind="FILE" ;;
        "serve --args") kind="" ;;
        "serve --memory") kind="" ;;
        "serve --queue") kind="" ;;
        "serve --patience") kind="" ;;
        "ask --input") kind="FILE" ;;
        "ask --input-format") kind="words auto image csv npy raw json" ;;
        "ask --timeout") kind="" ;;
        "tf plan --memory") kind="" ;;
        "tf plan --nodes") kind="NODE" ;;
        "tf plan --tensorflow") kind="" ;;
        "tf plan --output") kind="DIRECTORY" ;;
        "tf up --program") kind="FILE" ;;
        "tf up --args") kind="" ;;
        "tf up --timeout") kind="" ;;
        "tf run --cluster") kind="ID" ;;
        "demo --dir") kind="DIRECTORY" ;;
        "demo --text") kind="FILE" ;;
        "lab up --nodes") kind="" ;;
        "lab up --sandbox") kind="words auto systemd bubblewrap rlimits" ;;
        "lab up --timeout") kind="" ;;
        "lab up --dir") kind="DIRECTORY" ;;
        "lab down --dir") kind="DIRECTORY" ;;
        *) if [[ $cur == -* ]]; then kind="words $options"; else kind=$operand; fi ;;
    esac
    case $kind in
        words\ *) mapfile -t COMPREPLY < <(compgen -W "${kind#words }" -- "$cur") ;;
        ID) mapfile -t COMPREPLY < <(compgen -W "$(_ipdc_edge_ids)" -- "$cur") ;;
        NODE) mapfile -t COMPREPLY < <(compgen -W "$(_ipdc_edge_nodes "${words[0]}")" -- "$cur") ;;
        DIRECTORY) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
        FILE) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
    esac
}

complete -F _ipdc_edge ipdc-edge

//! `backy completions`

use clap::CommandFactory;
use clap_complete::Shell;

use crate::Session;
use crate::cli::Cli;
use crate::errors::Failure;

/// Print a shell completion script
///
/// For bash: backy completions bash > /etc/bash_completion.d/backy
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Shell to write it for
    shell: Shell,
}

pub(crate) fn run(args: &Args, session: &Session) -> Result<(), Failure> {
    // By way of memory: the generator panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "backy", &mut script);
    let script = String::from_utf8_lossy(&script);
    session.output.result(with_revisions(args.shell, &script).as_bytes())
}

/// The script, which completes the names of revisions in the archive on the command line.
fn with_revisions(shell: Shell, script: &str) -> String {
    match shell {
        Shell::Bash => {
            let script =
                script.replace("complete -F _backy ", "complete -F _backy_with_revisions ");
            format!("{BASH}{script}")
        }
        Shell::Zsh => {
            let mut script = script.replace(":REV:_default", ":REV:_backy_revisions");
            for revision in REVISION_ARGUMENTS {
                let named = format!("{revision}:_default");
                script = script.replace(&named, &format!("{revision}:_backy_revisions"));
            }
            match script.split_once("_backy() {") {
                Some((head, rest)) => format!("{head}{ZSH}_backy() {{{rest}"),
                None => script,
            }
        }
        Shell::Fish => format!("{script}{FISH}"),
        _ => script.to_owned(),
    }
}

/// The description of the arguments that name revisions in the help.
const REVISION_ARGUMENTS: [&str; 4] = [
    "Revision, without -r",
    "Which revisions to show",
    "Which revisions to verify, with the newer ones that they need",
    "Which revisions",
];

const BASH: &str = r#"_backy_with_revisions() {
    local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" word verb="" skip="" IFS
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        if [[ -n $skip ]]; then skip=""; continue; fi
        case $word in
            -b|--backupdir|--log-format) skip=1;;
            -*) ;;
            *) verb=$word; break;;
        esac
    done
    case "$verb $prev" in
        "restore -r"|"restore --revision"|"drill -r"|"drill --revision"|"export -r"|"export --revision"|\
        "find -r"|"find --revision"|"tag -r"|"tag --revision") ;;
        "find find"|"tag tag"|"drill drill"|"rm rm"|"scrub scrub"|"status status")
            [[ $cur == -* ]] && { _backy "$@"; return; };;
        *) _backy "$@"; return;;
    esac
    IFS=$'\n'
    COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" complete -- "${COMP_WORDS[@]:0:COMP_CWORD}" 2>/dev/null |
        cut -f 1)" -- "$cur"))
}

"#;

const ZSH: &str = r#"_backy_revisions() {
    local -a typed lines
    typed=(${(Q)${(z)LBUFFER}})
    lines=(${(f)"$($typed[1] complete -- $typed 2>/dev/null)"})
    lines=(${lines//:/\\:})
    lines=(${lines//$'\t'/:})
    _describe -V revision lines
}

"#;

const FISH: &str = r#"function __fish_backy_revisions
    set -l words (commandline -opc)
    $words[1] complete -- $words 2>/dev/null
end
for verb in restore drill export find tag
    complete -c backy -n "__fish_backy_using_subcommand $verb" -s r -l revision -x -k -a "(__fish_backy_revisions)"
end
for verb in drill find tag rm scrub status
    complete -c backy -n "__fish_backy_using_subcommand $verb" -f -k -a "(__fish_backy_revisions)"
end
"#;

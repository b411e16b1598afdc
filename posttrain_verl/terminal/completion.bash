# Completes `posttrain` in bash, from 3.2 on. Load it with: eval "$(posttrain completion bash)"
_posttrain() {
    local line=${COMP_LINE:0:COMP_POINT}
    local word=${line##*[[:space:]]}
    local replaced=""  # bash replaces only what follows the last = of a word
    [[ $COMP_WORDBREAKS == *=* && $word == *=* ]] && replaced=${word%"${word##*=}"}
    COMPREPLY=()
    local found
    while IFS= read -r found; do
        [[ -n $found ]] && COMPREPLY+=("${found#"$replaced"}")
    done < <(posttrain _complete "$line" 2>/dev/null)
}
complete -o nospace -o default -F _posttrain posttrain

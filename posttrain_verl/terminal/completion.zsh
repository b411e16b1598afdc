# Completes `posttrain` in zsh, after compinit. Load it with: eval "$(posttrain completion zsh)"
_posttrain() {
    local -a found
    found=("${(@f)$(posttrain _complete "$LBUFFER" 2>/dev/null)}")
    if [[ -n $found[1] ]]; then
        compadd -Q -S '' -a found
    else
        compset -P '*=' && _files || _files
    fi
}
compdef _posttrain posttrain

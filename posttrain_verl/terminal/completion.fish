# Completes `posttrain` in fish. Load it with: posttrain completion fish | source
function __posttrain
    set -l found (posttrain _complete (commandline -cp) 2>/dev/null)
    if test -n "$found"
        string trim --right -- $found  # fish adds the space itself
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c posttrain -f -a '(__posttrain)'

#!/bin/bash
# The job of a run, as `mmlight submit` and `mmlight sweep` hand it to sbatch. They replace each
# line that begins with `#@` by what the cluster's profile and the experiment say;
# `mmlight submit --dry-run` prints the result.
# shellcheck disable=SC2154  # the variables that are assigned on the lines put in
#@ options

# Which run: its folder, which the job of every restart shares.
#@ run
run=$root/$name/$id
export MMLIGHT_RUN_ID=$id
cd "$cwd" || exit

# How often it may go on, and how. Training ends with 0 when this job hands it on.
#@ bounds
export MMLIGHT_JOB=$SLURM_JOB_ID

# What fails from here to the end of the setup would fail at every start: the run is given up.
give_up() {
    trap - ERR
    set +eu
    echo "mmlight: $1"
    PYTHONPATH=$imports${PYTHONPATH:+:$PYTHONPATH} \
        "$host_python" -P -m mmlight.runs.after_srun "$run" 2 "$1"
    exit 2
}
# A file that is sourced counts by its own exit code, not by that of each of its lines.
setup_failed() {
    ((${#BASH_SOURCE[@]} > 2)) || give_up "setup failed with exit code $1: $(sed -n "$2s/^ *//p" "$0")"
}
trap 'setup_failed "$?" "$LINENO"' ERR

# What the cluster needs before Python starts.
#@ setup
trap - ERR
set +eu
#@ imports

# The first node leads, found by its address: its name need not resolve on the others. A port of
# this start's own, below those that systems hand out by themselves.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(scontrol --oneliner show node "$first" | sed -n 's/.* NodeAddr=\([^ ]*\).*/\1/p')
export MASTER_ADDR=${address:-$first}
export MASTER_PORT=$((12000 + (SLURM_JOB_ID + 97 * ${SLURM_RESTART_COUNT:-0}) % 20000))

# The node of this shell may have failed in the last start, with nobody left to say so.
if ((${SLURM_RESTART_COUNT:-0})); then
    "$host_python" -P -m mmlight.runs.before_srun "$run" || exit
fi

# A warning (USR1 before the time is up or at a preemption, TERM) is for the training processes,
# which save and end. This shell outlives them: without a trap it would end at once.
trap : USR1 TERM

#@ command
echo "mmlight: job $SLURM_JOB_ID begins on $SLURM_JOB_NODELIST"
# Each line with its time, which must not end before srun does.
srun "${srun[@]}" "${python[@]}" -P -m mmlight "${command[@]}" 2>&1 | (
    trap '' USR1 TERM
    while IFS= read -r line || [[ -n $line ]]; do printf '%(%FT%T)T %s\n' -1 "$line"; done
)
code=${PIPESTATUS[0]}

# Finished, to go on in a further job, or given up? The answer's exit code is the job's. SLURM may
# send TERM to all processes more than once: what is started from here on does not hear it.
trap '' USR1 TERM
"$host_python" -P -m mmlight.runs.after_srun "$run" "$code"

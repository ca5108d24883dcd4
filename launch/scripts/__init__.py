"""The files of a launch: launch.sh, launch.sbatch, their kind for other launchers, hostfile, env."""

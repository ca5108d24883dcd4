"""The files of a launch: launch.sh, launch.sbatch, hostfile, env."""

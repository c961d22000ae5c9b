"""What a plan takes: time, memory, places on a cluster; pure."""

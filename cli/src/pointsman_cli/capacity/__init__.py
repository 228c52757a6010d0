"""`pointsman capacity`: how many of what a workload needs, and what that costs."""

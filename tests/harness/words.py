"""What tests wait for on standard error: each phrase of the script once."""

GREETING = ", group "  # where the partitions begin; said before the group is joined
WAITS = "waits for new messages"
RESUMES = "resumes after the last message printed"
ASSIGNED = ": assigned "  # after each rebalance
NOT_COMMITTED = "offsets were not committed"
BLOCKED = "error: standard output is blocked"
NEW_CLIENT = ": starting a new client"  # the old one stood still, or heard nothing

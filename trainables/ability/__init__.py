"""What an edited model can still do: tasks that no edit is about, asked before and after."""

"""Everything that needs judgement and no rights."""

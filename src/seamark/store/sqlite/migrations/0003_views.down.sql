-- Nothing is kept: a view that looks into the user's file is of one connection only.
SELECT 1;

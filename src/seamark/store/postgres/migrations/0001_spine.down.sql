-- Everything goes: the triggers on the user's tables with the functions that they call.
DROP SCHEMA seamark CASCADE;

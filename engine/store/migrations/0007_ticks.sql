-- The smallest difference between two prices of a symbol; null where any price can be.
ALTER TABLE quantagent.instruments ADD COLUMN tick numeric;

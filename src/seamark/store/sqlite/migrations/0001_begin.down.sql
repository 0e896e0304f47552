DROP TABLE postings_upkeep;
DROP TABLE ann_shard;
DROP TABLE upkeep;
DROP TABLE worker;
DROP TABLE lease;
DROP TABLE generation;
DROP TABLE source;
DROP TABLE model;

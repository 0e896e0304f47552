DROP TABLE spend;
DROP TABLE donor;

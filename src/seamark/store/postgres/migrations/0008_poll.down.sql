DROP TABLE seamark.poll;
